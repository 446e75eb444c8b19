# syntax=docker/dockerfile:1

# One image for each program, such as `docker build --target ingress-consumer .`. A single stage compiles
# all of them, so that building every image compiles every crate once.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the layer, so a change compiles only what depends on it. They are no part of the
# layer either, which is why the programs are copied out of them in the same step. Queries are checked
# against .sqlx: no database is needed here.
RUN --mount=type=cache,id=headrace-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=headrace-target,target=/src/target,sharing=locked \
    cargo build --locked --release --bins \
        --package ingress-publisher \
        --package ingress-consumer \
        --package projections \
        --package provider-sim \
        --package headrace \
    && install -D --target-directory=/programs \
        target/release/ingress-publisher \
        target/release/ingress-consumer \
        target/release/outbox-relay \
        target/release/snapshot-projection \
        target/release/health-projection \
        target/release/reactions \
        target/release/live \
        target/release/provider-sim \
        target/release/headrace

FROM debian:bookworm-slim AS base
# Providers are reached through TLS, and their certificates are checked against the system's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 headrace \
    && useradd --uid 10001 --gid headrace --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin headrace
COPY --chmod=755 infra/container/is-ready /usr/local/bin/
# By number, so that an orchestrator can tell that it is not root.
USER 10001:10001

FROM base AS ingress-publisher
# A volume that is new takes its owner from here.
USER root
RUN install --directory --owner=10001 --group=10001 --mode=700 /var/lib/headrace/spool
USER 10001:10001
VOLUME /var/lib/headrace/spool
COPY --from=build /programs/ingress-publisher /usr/local/bin/
ENTRYPOINT ["ingress-publisher"]

FROM base AS ingress-consumer
COPY --from=build /programs/ingress-consumer /usr/local/bin/
ENTRYPOINT ["ingress-consumer"]

FROM base AS outbox-relay
COPY --from=build /programs/outbox-relay /usr/local/bin/
ENTRYPOINT ["outbox-relay"]

FROM base AS snapshot-projection
COPY --from=build /programs/snapshot-projection /usr/local/bin/
ENTRYPOINT ["snapshot-projection"]

FROM base AS health-projection
COPY --from=build /programs/health-projection /usr/local/bin/
ENTRYPOINT ["health-projection"]

FROM base AS reactions
COPY --from=build /programs/reactions /usr/local/bin/
ENTRYPOINT ["reactions"]

FROM base AS live
COPY --from=build /programs/live /usr/local/bin/
ENTRYPOINT ["live"]

FROM base AS provider-sim
COPY --from=build /programs/provider-sim /usr/local/bin/
ENTRYPOINT ["provider-sim"]

# Without a subcommand, `headrace` runs a whole system with private servers; a container is for one part.
FROM base AS headrace
COPY --from=build /programs/headrace /usr/local/bin/
ENTRYPOINT ["headrace"]
CMD ["gateway"]
