# Build it in the root of the repository: docker build -f deploy/docker/gateway.Dockerfile -t moodfood/gateway:0.1.0 .
FROM python:3.11-slim-bookworm AS build
COPY requirements/gateway.txt /build/requirements.txt
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes --requirement /build/requirements.txt

FROM python:3.11-slim-bookworm
WORKDIR /app
COPY --from=build /venv /venv
COPY gen gen
COPY services/__init__.py services/__init__.py
COPY services/transport services/transport
COPY services/gateway services/gateway
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app:/app/gen \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MOODFOOD_HOST=0.0.0.0 \
    MOODFOOD_INFERENCE_ADDRESS=dns:///inference:50051 \
    MOODFOOD_TRAINER_ADDRESS=trainer:50052
# The user is a number, so that Kubernetes can check runAsNonRoot. The root file system may be read-only.
USER 10001
EXPOSE 8000
ENTRYPOINT ["python", "-m", "services.gateway"]
