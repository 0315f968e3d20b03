# The service in one image: docker build -t suffice . (docs/operations.md says how to run it)
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY optimizer optimizer
COPY api api
COPY adapters adapters
RUN python -m venv /opt/suffice \
    && /opt/suffice/bin/pip install --no-cache-dir --constraint constraints.txt \
       --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple \
       ".[server,postgres,traces]"

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/suffice suffice
COPY --from=build /opt/suffice /opt/suffice
ENV PATH=/opt/suffice/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SUFFICE_HOST=0.0.0.0 \
    SUFFICE_PORT=8000 \
    SUFFICE_DATABASE=sqlite:////var/lib/suffice/suffice.db \
    SUFFICE_LOG_FORMAT=json \
    SUFFICE_LOG_REQUESTS=true \
    SUFFICE_DRAIN_SECONDS=5
USER 10001
WORKDIR /var/lib/suffice
VOLUME /var/lib/suffice
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# Without keys it refuses to listen here: `docker compose run --rm suffice keys create --role admin` makes the first.
ENTRYPOINT ["suffice"]
CMD ["serve"]
