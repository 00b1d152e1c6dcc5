# One image for every role: `services.<name> api|worker|migrate`, `simulators.<name>`, `oms <command>`.
FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS base

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
# Without a pip of its own: what runs needs none.
RUN python -m venv --without-pip /opt/orderloom
COPY requirements.lock ./
RUN python -m pip --python /opt/orderloom/bin/python install --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY libs ./libs
COPY services ./services
COPY simulators ./simulators
COPY oms ./oms
RUN python -m pip --python /opt/orderloom/bin/python install --no-build-isolation --no-deps .

FROM base
LABEL org.opencontainers.image.title="Orderloom" \
      org.opencontainers.image.licenses="Apache-2.0"
# The root file system may be read-only: nothing is written but to /tmp. PYTHONSAFEPATH: modules come from the image alone,
# never from the working directory.
ENV PATH=/opt/orderloom/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/orderloom /opt/orderloom
# For a volume with the simulators' ledgers; a new volume takes its owner from here.
RUN install -d -o 10001 -g 10001 /var/lib/orderloom
USER 10001:10001
WORKDIR /var/lib/orderloom
EXPOSE 8080
ENTRYPOINT ["python", "-m"]
CMD ["oms", "--help"]
