# Both services, one image each:   docker build --target source-service .   docker build --target sink-service .
#
# Build and run stage are the same Debian release, because the programs link its glibc. The run stage has no shell, no
# package manager and no root; its tag moves, so its digest is pinned.

# The version of rust-toolchain.toml; a test compares them.
FROM rust:1.95.0-trixie AS build
WORKDIR /src
COPY . .
# The caches hold what was downloaded and compiled; the programs have to leave them within the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --release -p source-service -p sink-service -p probe \
    && install -D -t /out target/release/source-service target/release/sink-service target/release/probe

FROM gcr.io/distroless/cc-debian13:nonroot@sha256:54df941ed0d06a1bd95ef5e0ce391fd8d9f94b64782dc9a60062727849ee3f97 AS base
# The health check: there is no shell and no curl to make one of.
COPY --from=build /out/probe /usr/local/bin/probe
# `nonroot` of the base image, as a number, so that Kubernetes' runAsNonRoot can tell.
USER 65532:65532
STOPSIGNAL SIGTERM

FROM base AS source-service
COPY --from=build /out/source-service /usr/local/bin/source-service
EXPOSE 9464
ENTRYPOINT ["/usr/local/bin/source-service"]
CMD ["run"]

FROM base AS sink-service
COPY --from=build /out/sink-service /usr/local/bin/sink-service
EXPOSE 9465
ENTRYPOINT ["/usr/local/bin/sink-service"]
CMD ["run"]
