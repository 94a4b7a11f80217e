#!/bin/sh
# Does to a copy of this repository what a guide says to do: writes the files that it shows whole,
# and applies its diffs.
#
#   tests/apply-guide.sh GUIDE DIRECTORY [HEADING]
#
# A block below a line that ends with a path, as in "A new file, `a/b.rs`:", is that whole file; a
# block of diff is a change. Followed are the steps, which are the sections with a number, or the
# section with this heading alone.
set -eu
diffs=$(mktemp)
trap 'rm -f "$diffs"' EXIT
awk -v into="$2" -v heading="${3-}" -v diffs="$diffs" '
    /^```/ && inside { inside = 0; above = ""; next }
    inside { if (file) print > file; next }
    /^```/ {
        inside = 1
        file = ""
        if (!follows) next
        if ($0 == "```diff") file = diffs
        else if (match(above, /`[^`]+`:$/)) {
            file = into "/" substr(above, RSTART + 1, RLENGTH - 3)
            folder = file
            sub(/[^\/]*$/, "", folder)
            system("mkdir -p \"" folder "\"")
        }
        next
    }
    /^## / { follows = heading == "" ? /^## [0-9]/ : $0 == "## " heading }
    NF { above = $0 }
' "$1"
cd "$2"
# Not even where the copy lies in another repository is that one meant.
GIT_CEILING_DIRECTORIES=$(dirname "$PWD") git apply "$diffs"
