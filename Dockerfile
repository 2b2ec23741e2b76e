# syntax=docker/dockerfile:1
# `sterna serve` in a small image. docs/serving.md tells how to run it.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/sterna /usr/local/bin/sterna

FROM debian:bookworm-slim
# The certificates are for `sterna pull`.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --create-home sterna
COPY --from=build /usr/local/bin/sterna /usr/local/bin/sterna
COPY LICENSE /usr/share/doc/sterna/
USER 10001
WORKDIR /data
# Models that are pulled, and what `sterna tune` finds.
VOLUME /data
ENV HF_HOME=/data/huggingface XDG_CACHE_HOME=/data/cache XDG_CONFIG_HOME=/data/config
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
# Listens to all, as a container must: it wants an API key (STERNA_API_KEY) or --insecure.
ENV STERNA_HOST=0.0.0.0 STERNA_PORT=8080
ENTRYPOINT ["sterna", "serve"]
CMD ["demo"]
