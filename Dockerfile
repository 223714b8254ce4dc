# The service with everything it can speak to. A smaller one: docker build --build-arg EXTRAS=postgres,kafka,opensearch .
# Runs with --read-only: it writes to /var/lib/cdc only, and there only what the pipeline's file puts there (an embedded
# log, embedded stores; DuckDB spills beside its file).

FROM python:3.13.14-slim-trixie AS build
ARG EXTRAS=all
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cdc cdc
COPY connectors connectors
COPY sinks sinks
COPY schemas schemas
RUN python -m venv /opt/cdc && /opt/cdc/bin/pip install --no-cache-dir ".[${EXTRAS}]"

FROM python:3.13.14-slim-trixie
COPY --from=build /opt/cdc /opt/cdc
RUN useradd --uid 10001 --user-group --home-dir /var/lib/cdc cdc && install -d -o cdc -g cdc /var/lib/cdc
ENV PATH=/opt/cdc/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/cdc
VOLUME /var/lib/cdc
# Unhealthy is a worker that needs a person or is gone, not one that waits for a server to come back.
HEALTHCHECK --interval=30s --timeout=30s --start-period=60s --retries=3 \
    CMD cdc -c /etc/cdc/cdc.yaml status --fail-on failed || exit 1
ENTRYPOINT ["cdc", "-c", "/etc/cdc/cdc.yaml"]
CMD ["run"]
