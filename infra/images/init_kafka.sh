#!/bin/sh
# Makes the topics (and the bucket) that RALO needs, at the broker and store that RALO_KAFKA__* and
# RALO_S3__* name; safe to run again. Topics, partitions and retention: schemas/topics.py.
set -eu
exec "$(dirname -- "$0")/../../ralo" provision "$@"
