# docker build -t seekable .
# The image sets no SEEKABLE_ACCESS: run it with SEEKABLE_ACCESS=accounts, or open.

# The version of Python that the tests use.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY locks/postgresql.lock locks/build.lock locks/
RUN python -m venv --without-pip /opt/seekable \
 && python -m pip --python /opt/seekable/bin/python install --require-hashes --only-binary :all: -r locks/postgresql.lock
RUN python -m venv --without-pip /opt/build \
 && python -m pip --python /opt/build/bin/python install --require-hashes --only-binary :all: -r locks/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY docs docs
COPY app app
RUN /opt/build/bin/hatchling build --target wheel --directory dist \
 && python -m pip --python /opt/seekable/bin/python install --no-deps --no-index dist/*.whl

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/seekable /opt/seekable
RUN install --directory --owner=10001 --group=10001 --mode=0750 /data
ENV PATH=/opt/seekable/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SEEKABLE_HOST=0.0.0.0 SEEKABLE_PORT=8000 SEEKABLE_FILES_DIR=/data
# A number, so that Kubernetes can check that it is not root.
USER 10001:10001
# Not /data: the server reads settings from a `.env` in its working directory, and in /data that could be an upload.
WORKDIR /
VOLUME ["/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['SEEKABLE_PORT']), timeout=4); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["seekable"]
CMD ["serve"]
