# Build from the root of the repository: docker build -f deploy/docker/inference.Dockerfile -t moodfood/inference .
FROM python:3.11-slim-bookworm AS build
COPY requirements/inference.txt /build/requirements.txt
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes --requirement /build/requirements.txt

FROM python:3.11-slim-bookworm
WORKDIR /app
COPY --from=build /venv /venv
COPY gen gen
COPY services/__init__.py services/__init__.py
COPY services/transport services/transport
COPY services/inference services/inference
COPY data/taxonomy data/taxonomy
COPY data/catalogue data/catalogue
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app:/app/gen \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MOODFOOD_HOST=0.0.0.0 \
    MOODFOOD_MODELS_DIR=/var/lib/moodfood/models \
    MOODFOOD_DATA_DIR=/var/lib/moodfood/data
# A number, so that Kubernetes can check runAsNonRoot. The root file system may be read-only.
USER 10001
EXPOSE 50051
ENTRYPOINT ["python", "-m", "services.inference"]
