# One image for every role: `docker build .`, then `docker run IMAGE up --demo --once`.

FROM rust:1-slim-bookworm AS dependencies
WORKDIR /build
# The dependencies alone, around an empty crate: a layer that lasts until they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo '//! A crate without anything.' > src/lib.rs \
    && printf '//! Nothing.\nfn main() {}\n' | tee build.rs > src/main.rs \
    && cargo build --release --locked \
    && cargo clean --release --locked --package taskgrid

FROM dependencies AS build
# By this label the classic builder's leftovers are found, without the layer above.
LABEL taskgrid.stage=build
COPY build.rs ./
COPY proto proto
COPY src src
# The names of functions stay, for backtraces; the lines would be four times as much.
RUN cargo build --release --locked --bin taskgrid \
    && strip --strip-debug target/release/taskgrid

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="TaskGrid" \
      org.opencontainers.image.description="A distributed task system in one binary: durable queue, workers, results" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# A number, so that "not root" can be seen without the image's list of users. A volume that is
# mounted for the first time takes the owner of the directory below it.
RUN install -d -o 10001 -g 10001 /var/lib/taskgrid /var/log/taskgrid
COPY --from=build /build/target/release/taskgrid /usr/local/bin/
USER 10001:10001
WORKDIR /var/lib/taskgrid
ENV TASKGRID_DISPATCHER_DATA_DIR=/var/lib/taskgrid
STOPSIGNAL SIGTERM
ENTRYPOINT ["taskgrid"]
# What `taskgrid worker` serves, and where, unless told otherwise. Last: images that differ in
# these alone share every layer.
ARG WORKER_TYPE
ARG PORT
ENV TASKGRID_WORKER_TYPE=$WORKER_TYPE TASKGRID_WORKER_PORT=$PORT
