#!/usr/bin/env bash
# The containers as somebody meets them who clones this repository: built, started, used, killed,
# restarted, scaled, stopped, on the engine that DOCKER_HOST names, by docker-compose or by the
# compose plugin. Besides these it needs git and Python 3. It takes the last commit, and free ports.
#
# Each step prints what it measured. The first that is not as it must be ends it all, and says what
# was wrong. Nothing stays on the engine but the compiled dependencies, for the next build.
set -Eeuo pipefail

readonly BASE=debian:bookworm-slim  # what the final image is built on
readonly ROOM=$((40 * 1000 * 1000)) # and may add to it, in bytes
readonly TYPES="reverse sum hash upper wait"

repository=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
if docker-compose version >/dev/null 2>&1; then compose=(docker-compose); else compose=(docker compose); fi
# Nothing of whoever calls this.
unset "${!TASKGRID_@}" COMPOSE_FILE COMPOSE_PROFILES
export COMPOSE_PROJECT_NAME=taskgrid-test-$$ TASKGRID_NETWORK=taskgrid-test-$$
# For all builders the same words on a terminal and on none.
export BUILDKIT_PROGRESS=plain

main() {
  clones
  builds
  starts
  does_tasks
  tells_its_numbers
  tests_itself
  is_locked_up
  ends_its_test
  outlives_a_worker_and_a_restart
  scales
  stops
  takes_a_new_type
}

clones() {
  git clone --quiet "$repository" "$work/clone"
  cd "$work/clone"
  local uncommitted; uncommitted=$(git -C "$repository" status --porcelain | wc -l)
  measured clone "$(git log -1 --format=%h); $uncommitted uncommitted changes are not in it"
  local file=$work/usual-ports
  "${compose[@]}" config >"$file"
  for port in 50051 50052 50053 8080; do
    grep -Eq "127\.0\.0\.1:$port:$port|published: \"?$port\"?" "$file" || fail "$port is not published"
  done
  # shellcheck disable=SC2046 # a word for each
  export $(python free_ports TASKGRID_{NAMESERVICE,DISPATCHER,MONITOR,MONITOR_HTTP}_PORT)
}

builds() {
  clock
  limited 1800 "${compose[@]}" --profile test build
  measured build "$(took)"
  docker image inspect "$BASE" >/dev/null 2>&1 || limited 300 docker pull "$BASE"
  local added; added=$(($(size "$(image_of dispatcher)") - $(size "$BASE")))
  [ "$added" -lt "$ROOM" ] || fail "the image adds $added bytes to $BASE, more than $ROOM"
  measured "image" "adds $((added / 1000)) kB to $BASE"
}

starts() {
  clock
  limited 60 "${compose[@]}" up -d
  within 60 "all eight services are healthy" healthy 8
  measured "up" "8 services healthy after $(took)"
  [ -z "$(containers test-client)" ] || fail "up started the test client, which nobody asked for"
}

does_tasks() {
  clock
  # shellcheck disable=SC2086 # a word for each
  python tasks 100 first $TYPES >"$work/first"
  submit first -o ndjson
  # shellcheck disable=SC2086
  python right 100 $TYPES <"$work/first.out" || fail "not every task of 500 has its result"
  measured "tasks" "100 of each type, all right, in $(took)"
  local sum
  sum=$(docker run --rm --network host "$(image_of dispatcher)" \
    client --dispatcher "127.0.0.1:$TASKGRID_DISPATCHER_PORT" send sum "[1,2]")
  [ "$sum" = 3 ] || fail "through the published port 1 + 2 is $sum"
  measured "published port" "sum [1,2] is $sum"
}

tells_its_numbers() {
  clock
  within 10 "/stats tells of 501 completed tasks and 5 workers" stats '
    s["completed_tasks"] == 501 and s["active_workers"] == 5 == len(s["workers"])
    and s["pending_tasks"] == s["running_tasks"] == s["failed_tasks"] == 0
    and s["average_processing_time_ms"] > 0 and s["missing"] == []
    and {t["type"]: t["completed"] for t in s["types"]}
        == {"reverse": 100, "sum": 101, "hash": 100, "upper": 100, "wait": 100}'
  measured "/stats" "501 completed, 5 workers, after $(took)"
}

tests_itself() {
  clock
  TASKGRID_TEST_INTERVAL=1s limited 60 "${compose[@]}" up -d test-client
  local log=logs/taskgrid_tests.log
  within 30 "20 tasks are right in $log" has_lines 20 ' right ' "$log"
  "${compose[@]}" logs --no-color test-client >"$work/printed"
  has_lines 20 ' right ' "$work/printed" || fail "the test client printed no results"
  [ "$(stat -c %u "$log")" != 0 ] || fail "the log belongs to root"
  measured "test-client" "$(grep -c ' right ' "$log") results in ./$log after $(took)"
}

is_locked_up() {
  local id all; all=$(running)
  for id in $all; do
    docker inspect "$id" | python locked_up || fail "$(name "$id") is not locked up"
    docker exec "$id" sh -c '! touch /x 2>/dev/null && grep -Eq "^CapEff:\s+0+$" /proc/1/status' ||
      fail "$(name "$id") can write its root, or has capabilities"
  done
  measured "locked up" "$(wc -w <<<"$all") containers: no root, no writing, no capabilities"
}

ends_its_test() {
  clock
  limited 60 "${compose[@]}" stop test-client
  ended_well "$(containers test-client)"
  measured "stop test-client" "ended with 0 after $(took)"
}

outlives_a_worker_and_a_restart() {
  clock
  limited 30 "${compose[@]}" kill -s KILL worker-hash
  within 10 "/stats tells that a worker is gone" stats 's["active_workers"] == 4'
  measured "kill worker-hash" "in /stats after $(took)"

  python tasks 50 waiting hash >"$work/waiting"
  submit waiting --detach -o id
  local ids; ids=$(sort -n "$work/waiting.out")
  within 10 "50 tasks wait" stats 's["pending_tasks"] == 50'
  clock
  limited 60 "${compose[@]}" restart dispatcher
  within 60 "all but worker-hash are healthy" healthy 7
  measured "restart dispatcher" "healthy after $(took)"
  # The same input is the same tasks: nothing may have run again.
  mv "$work/first.out" "$work/before.out"
  submit first -o ndjson
  diff <(sort "$work/before.out") <(sort "$work/first.out") >"$work/why" ||
    fail "results of before are not what they were"
  within 10 "50 tasks still wait" stats 's["pending_tasks"] == 50'

  clock
  limited 60 "${compose[@]}" up -d
  submit waiting -o ndjson
  python right 50 hash <"$work/waiting.out" || fail "not every waiting task has its result"
  [ "$ids" = "$(python ids <"$work/waiting.out")" ] || fail "these are not the tasks that waited"
  measured "nothing lost" "500 results as before; 50 tasks that waited done $(took) after up"
}

scales() {
  clock
  limited 60 "${compose[@]}" up -d --scale worker-hash=3
  within 60 "three workers serve hash" stats '
    sum(w["types"] == ["hash"] and w["connected"] for w in s["workers"]) == 3'
  local round=0
  three_share() {
    round=$((round + 1))
    python tasks 500 "$round" hash >"$work/shared"
    submit shared -o ndjson
    python right 500 hash <"$work/shared.out" || fail "not every task has its result"
    cat "$work/shared.out" >>"$work/all-shared"
    [ "$(python workers <"$work/all-shared")" = 3 ]
  }
  within 30 "three workers do hash tasks" three_share
  measured "scale" "3 workers shared $((round * 500)) hash tasks, $(took) after up"
}

stops() {
  # Work that goes on while they are told to stop, and that is shorter than their grace.
  echo '{"type": "wait", "payload": "2s"}' >"$work/open"
  submit open --detach -o id
  within 10 "a task runs" stats 's["running_tasks"] == 1'
  clock
  limited 60 "${compose[@]}" stop
  ended_well "$(containers)"
  measured "stop" "$(containers | wc -w) containers ended with 0 within $(took)"
}

# Follows the guide to adding a type: its worker alone is built anew, without the dependencies, and
# the other roles are those of before.
takes_a_new_type() {
  clock
  tests/apply-guide.sh docs/adding-a-type.md .
  limited 1800 "${compose[@]}" build worker-words
  # A builder may colour what cargo says.
  local compiled; compiled=$(sed 's/\x1b\[[0-9;]*m//g' "$work/said" | grep -Eo 'Compiling \S+' | sort -u)
  [ "$compiled" = "Compiling taskgrid" ] || fail "changed source files: ${compiled:-nothing compiled}"
  measured "rebuild" "without dependencies after changed files, in $(took)"
  clock
  limited 60 "${compose[@]}" up -d dispatcher monitoring worker-words
  within 60 "four services are healthy" healthy 4
  within 10 "/stats tells of the new type" stats '
    any(t["type"] == "words" and t["workers"] == 1 for t in s["types"])'
  local words; words=$("${compose[@]}" exec -T dispatcher \
    taskgrid client send words '{"text": "To be or not to be", "top": 1}')
  [ "$words" = '{"counts":[{"word":"be","count":2}]}' ] || fail "the guide's type says $words"
  measured "new type" "the guide's worker serves it, $(took) after up"
}

# --- What the steps are made of

measured() { printf '%-20s %s\n' "$1" "$2"; }

fail() {
  trap - ERR
  printf 'FAILED: %s\n' "$*"
  for file in why said; do
    if [ -s "$work/$file" ]; then tail -n 15 "$work/$file"; fi
  done
  "${compose[@]}" logs --no-color --tail 15 2>/dev/null || echo "(and there are no logs)"
  exit 1
} >&2

clock() { began=${EPOCHREALTIME//[!0-9]/}; }
took() {
  local us=$((${EPOCHREALTIME//[!0-9]/} - began))
  printf '%d.%d s' $((us / 1000000)) $((us / 100000 % 10))
}

# Runs a command for so many seconds at most; what it says is shown only if it fails.
limited() {
  timeout "$@" >"$work/said" 2>&1 </dev/null || fail "ended with $?: ${*:2} (of $1 s)"
}

# Looks, for so many seconds at most, until it is so.
within() {
  local end=$((SECONDS + $1))
  until "${@:3}"; do
    [ "$SECONDS" -lt "$end" ] || fail "not so within $1 s: $2"
    sleep 0.2
  done
}

# The containers of the project, or of one service.
containers() {
  docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    ${1:+--filter "label=com.docker.compose.service=$1"}
}
running() { docker ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" "$@"; }
name() { docker inspect --format '{{.Name}}' "$1"; }
size() { docker image inspect --format '{{.Size}}' "$1"; }

# The image of a service, whatever this compose joins names with.
image_of() {
  local image
  for image in "${COMPOSE_PROJECT_NAME}"{_,-}"$1"; do
    if docker image inspect "$image" >/dev/null 2>&1; then echo "$image"; fi
  done
}

healthy() {
  local all; all=$(running --filter health=healthy | wc -l)
  echo "$all are healthy" >"$work/why"
  [ "$all" -eq "$1" ]
}

has_lines() { [ -e "$3" ] && [ "$(grep -c "$2" "$3")" -ge "$1" ]; }

ended_well() {
  local id code
  for id in $1; do
    code=$(docker inspect --format '{{.State.ExitCode}}' "$id")
    [ "$code" = 0 ] || fail "$(name "$id") ended with $code"
  done
}

# Submits a file of tasks from within a container; the answer stands beside it.
submit() {
  timeout 120 "${compose[@]}" exec -T dispatcher taskgrid client submit "${@:2}" - \
    <"$work/$1" >"$work/$1.out" 2>"$work/said" || fail "submit of $(wc -l <"$work/$1") tasks"
}

# Whether this holds of the grid's numbers.
stats() { python stats "$1" 2>"$work/why"; }

python() { python3 "$repository/tests/containers.py" "$@"; }

cleans_up() {
  local ids
  cd "$work/clone" 2>/dev/null &&
    "${compose[@]}" --profile test down --volumes --rmi local --remove-orphans --timeout 0 >"$work/said" 2>&1 ||
    echo "not all was cleaned up: $(tail -n 3 "$work/said")" >&2
  # The classic builder's stages, from the last layer back to the dependencies, which have no label.
  while ids=$(docker images -q --filter dangling=true --filter label=taskgrid.stage=build) && [ -n "$ids" ]; do
    # shellcheck disable=SC2086 # a word for each
    docker rmi --no-prune $ids >/dev/null || break
  done
  rm -rf "$work"
}
trap cleans_up EXIT
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
# Where a wish to stop comes, the trap above still cleans up.
trap 'exit 130' INT TERM
docker info >/dev/null 2>&1 || { echo "no engine answers at ${DOCKER_HOST:-the usual socket}" >&2; exit 1; }
main
