# One image for everything that runs in the cluster:
#   tidegate edge --config FILE · tidegate router --config FILE · python -m tidegate_operator · valkey-server FILE
# Every package is installed from a lock with hashes (make lock), and nothing is built in the image that runs. The
# broker is the compiled build (docs/adr/0053-compiled-modules.md).
# It has a C compiler and Python's headers; the image that runs is the slim one.
FROM python:3.11-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

RUN python -m venv /opt/build && python -m venv --without-pip /opt/tidegate
COPY image/requirements-build.lock image/requirements.lock image/
RUN /opt/build/bin/pip install --require-hashes --requirement image/requirements-build.lock \
 && /opt/build/bin/pip --python /opt/tidegate/bin/python install --require-hashes --only-binary :all: \
    --requirement image/requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY tools/compiled_wheel.py tools/
COPY services services
COPY operator operator
RUN HATCH_BUILD_HOOK_ENABLE_CUSTOM=true /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir dist . \
 && /opt/build/bin/pip --python /opt/tidegate/bin/python install --no-deps --no-index dist/*.whl \
 && ln -s "$(/opt/tidegate/bin/python -c 'from tidegate.store.embedded import find_server; print(find_server())')" \
    /opt/tidegate/bin/valkey-server \
 && /opt/tidegate/bin/python -m compileall -q /opt/tidegate/lib

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Tidegate" \
      org.opencontainers.image.description="An MQTT broker made for Kubernetes: edge, router and operator" \
      org.opencontainers.image.licenses="Apache-2.0"
# kopf asks for the user's name, so there is one.
RUN groupadd --gid 65532 tidegate \
 && useradd --uid 65532 --gid 65532 --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin tidegate
COPY --from=build /opt/tidegate /opt/tidegate
ENV PATH=/opt/tidegate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 1883 8083 8443 8883 8084 18083 7000
CMD ["tidegate", "--help"]
