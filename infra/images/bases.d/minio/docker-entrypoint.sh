#!/bin/sh
# Takes `server /data` for `minio server /data`, as the official image does.
[ "${1:-minio}" = minio ] || set -- minio "$@"
exec "$@"
