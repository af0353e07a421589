"""Values that the tests install the chart with."""

from typing import Any

from tests.system.k8s.helm import Values, environment

PASSWORD: Values = {"mongodb": {"password": "aGoodOne"}}

# Every value that the other environments leave at its default.
EVERYTHING: Values = {
    "image": {"repository": "registry.example.org/seekable", "tag": "1", "pullSecrets": ["registry"]},
    "access": "open",
    "baseUrl": "https://example.org/media",
    "allowedHosts": ["*.example.org", "192.0.2.1"],
    "trustedProxies": ["10.0.0.0/8", "192.0.2.1"],
    "metrics": False,
    "logFormat": "line",
    "settings": {"MAX_UPLOAD_SIZE": "100GiB", "ACCESS_LOG": False, "SCAN_INTERVAL": 60, "HEARTBEAT": 7.5},
    "existingSecret": "mine",
    "preStop": 0,
    "shutdownDelay": 60,
    "shutdownTimeout": 600,
    "mongodb": {
        "url": "mongodb://me:secret@db.example.org/films?replicaSet=rs0",
        "usersUrl": "mongodb://me:secret@db.example.org/people",
    },
    "service": {"type": "NodePort", "port": 8080},
    "ingress": {"enabled": True, "host": "example.org", "tls": True},
    "networkPolicy": {
        "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 27017}]}],
    },
    "topologyKeys": [],
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "media", "operator": "Exists"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]
            }
        }
    },
    "podAnnotations": {"example.org/a": "b"},
}

ENVIRONMENTS: dict[str, Values] = {
    "defaults": PASSWORD,
    "minikube": environment("minikube"),
    "kong": environment("kong"),
    "filesystem": environment("filesystem"),
    "one": environment("one"),
    "everything": EVERYTHING,
    "one node": {"mongodb": {"nodes": 1, "existingSecret": "mine", "storageClass": "fast"}},
    "urls": {
        "storage": "filesystem",
        "filesystem": {
            "database": "postgresql",
            "databaseUrl": 'postgresql+psycopg://me:it\'s "$(A)"@db/films',
            "existingClaim": "films",
            "accessMode": "ReadWriteMany",
        },
    },
}


def films(**more: Any) -> Values:
    """Return values for storage `filesystem`."""
    return {"storage": "filesystem", "filesystem": more}


POSTGRESQL: Values = {"database": "postgresql", "databaseUrl": "postgresql://db/films"}

# Invalid values, and words of the chart's error message.
REFUSED: dict[str, tuple[Values, str]] = {
    "SQLite with three replicas": (films(accessMode="ReadWriteMany"), "SQLite supports one replica"),
    "SQLite with two replicas": ({"replicas": 2, **films()}, "SQLite supports one replica"),
    "a volume of one node with three replicas": (films(**POSTGRESQL), "needs a shared volume"),
    "PostgreSQL without a URL": (
        films(database="postgresql", accessMode="ReadWriteMany"),
        "PostgreSQL has no URL",
    ),
    "SQLite with a URL of PostgreSQL": (
        {"replicas": 1, **films(databaseUrl="postgresql://db/films")},
        "With filesystem.database=sqlite",
    ),
    "GridFS without a MongoDB": ({"mongodb": {"enabled": False}}, "GridFS needs a MongoDB"),
    "a MongoDB without a password": ({}, "mongodb.password: The MongoDB of the chart has no password"),
    "an ingress without a host": ({**PASSWORD, "ingress": {"enabled": True}}, "ingress.host"),
    "a certificate without https": (
        {**PASSWORD, "ingress": {"enabled": True, "host": "a.b", "tlsSecret": "c"}},
        "ingress.tlsSecret",
    ),
    "a setting that is the chart's": ({**PASSWORD, "settings": {"PORT": 1}}, "settings.PORT: The chart sets"),
    "a password in a ConfigMap": (
        {**PASSWORD, "settings": {"USERS_URL": "mongodb://a"}},
        "may hold a password",
    ),
    # By the schema:
    "an unknown value": ({**PASSWORD, "replicaCount": 2}, "replicaCount"),
    "an unknown value within another": ({**PASSWORD, "ingress": {"hosts": ["a.b"]}}, "hosts"),
    "zero replicas": ({**PASSWORD, "replicas": 0}, "replicas"),
    "access for this machine only": ({**PASSWORD, "access": "loopback"}, "access"),
    "a password that no URL can hold": ({"mongodb": {"password": "p@ss/word"}}, "password"),
    "two nodes, which survive no failure": ({"mongodb": {"password": "a", "nodes": 2}}, "nodes"),
    "a host with a scheme": (
        {**PASSWORD, "ingress": {"enabled": True, "host": "https://a.b"}},
        "ingress/host",
    ),
    "a setting in small letters": ({**PASSWORD, "settings": {"max_upload_size": 1}}, "invalid propertyName"),
    "SQLite as a URL": (films(databaseUrl="sqlite:////data/a.db"), "databaseUrl"),
}
