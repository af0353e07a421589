{{- define "seekable.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "seekable.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "seekable.mongodb.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: mongodb
{{- end -}}

{{- define "seekable.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- end -}}

{{- define "seekable.mongodb.name" -}}
{{ include "seekable.name" . }}-mongodb
{{- end -}}

{{- define "seekable.mongodb.secret" -}}
{{ .Values.mongodb.existingSecret | default (include "seekable.mongodb.name" .) }}
{{- end -}}

{{- /* Whether the chart creates a MongoDB: "true" or empty. */ -}}
{{- define "seekable.mongodb.made" -}}
{{- if and (eq .Values.storage "gridfs") .Values.mongodb.enabled (not .Values.mongodb.url) }}true{{ end -}}
{{- end -}}

{{- /* The nodes as host:port, separated by commas; without a namespace, which only `kubectl apply -n` may know. */ -}}
{{- define "seekable.mongodb.hosts" -}}
{{- $name := include "seekable.mongodb.name" . -}}
{{- range $i := until (int .Values.mongodb.nodes) }}{{ if $i }},{{ end }}{{ $name }}-{{ $i }}.{{ $name }}:27017{{ end -}}
{{- end -}}

{{- define "seekable.baseUrl" -}}
{{- if .Values.baseUrl -}}
{{ .Values.baseUrl }}
{{- else if .Values.ingress.enabled -}}
{{ ternary "https" "http" .Values.ingress.tls }}://{{ .Values.ingress.host }}
{{- end -}}
{{- end -}}

{{- define "seekable.allowedHosts" -}}
{{- $name := include "seekable.name" . -}}
{{- $own := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) -}}
{{- if .Values.ingress.enabled }}{{ $own = append $own .Values.ingress.host }}{{ end -}}
{{ concat $own .Values.allowedHosts | uniq | join "," }}
{{- end -}}

{{- /* The grace period: preStop, SEEKABLE_SHUTDOWN_DELAY, SEEKABLE_SHUTDOWN_TIMEOUT, the 3 seconds that the server then waits for a disk, and 2 to spare. */ -}}
{{- define "seekable.gracePeriod" -}}
{{ add .Values.preStop .Values.shutdownDelay .Values.shutdownTimeout 3 2 }}
{{- end -}}

{{- /* Whether a new pod may run beside an old one: "true" or empty. */ -}}
{{- define "seekable.rolls" -}}
{{- if or (eq .Values.storage "gridfs") (and (eq .Values.filesystem.database "postgresql") (eq .Values.filesystem.accessMode "ReadWriteMany")) }}true{{ end -}}
{{- end -}}

{{- define "seekable.spread" -}}
{{- range .keys }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- $.selector | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "seekable.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* The database URLs among the values, with their passwords. */ -}}
{{- define "seekable.urls" -}}
{{- $urls := dict -}}
{{- if eq .Values.storage "filesystem" -}}
{{- with .Values.filesystem.databaseUrl }}{{ $_ := set $urls "SEEKABLE_DATABASE_URL" . }}{{ end -}}
{{- else -}}
{{- with .Values.mongodb.url }}{{ $_ := set $urls "SEEKABLE_MONGODB_URL" . }}{{ end -}}
{{- with .Values.mongodb.usersUrl }}{{ $_ := set $urls "SEEKABLE_USERS_URL" . }}{{ end -}}
{{- end -}}
{{- if $urls }}{{ toYaml $urls }}{{ end -}}
{{- end -}}

{{- /* The setting with the database URL that existingSecret must contain, or empty. */ -}}
{{- define "seekable.urlInSecret" -}}
{{- if eq .Values.storage "filesystem" -}}
{{- if and (eq .Values.filesystem.database "postgresql") (not .Values.filesystem.databaseUrl) }}SEEKABLE_DATABASE_URL{{ end -}}
{{- else if not (or .Values.mongodb.url .Values.mongodb.enabled) -}}
SEEKABLE_MONGODB_URL
{{- end -}}
{{- end -}}
