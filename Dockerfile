# syntax=docker/dockerfile:1
# The web service or, with the argument EARS, a worker in a container: the packages it needs, at the versions of requirements.lock, every file checked by its hash.
# The base image is pinned by its full version. Pinning by digest is stricter; look one up where you have a registry at hand
# (docker buildx imagetools inspect python:3.12.12-slim-bookworm) and append it as @sha256:...
FROM python:3.12.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /venv
COPY requirements.lock pyproject.toml deploy/slim.py ./
ARG EARS=
RUN python slim.py requirements.lock pyproject.toml $EARS > server.lock \
 && /venv/bin/pip install --require-hashes --only-binary :all: -r server.lock
COPY README.md LICENSE NOTICE ./
COPY rap_analyzer ./rap_analyzer
RUN /venv/bin/pip install --no-deps --no-build-isolation .

FROM python:3.12.12-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin rap \
 && install --directory --owner rap --group rap --mode 0700 /var/lib/rap
COPY --from=build /venv /venv
WORKDIR /app
COPY settings.ini ./
# Inside the container the service listens on every interface of the container; docker-compose.yml publishes it on 127.0.0.1 only.
# DATABASE_URL and REDIS_URL come from outside; nothing secret is in the image.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    RAP_SETTINGS=/app/settings.ini RAP_LAB_HOME=/var/lib/rap RAP_API_HOST=0.0.0.0 RAP_API_PORT=8000
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=3)"]
CMD ["rap-analyzer", "serve"]
