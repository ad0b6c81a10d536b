#!/usr/bin/env bash
# Gives a principal the rights of acls-source.conf, acls-sink.conf or acls-operator.conf, with Kafka's own tool. Runs again without harm.
#
#   grant.sh source|sink|operator
#
#   KAFKA_BROKERS          where (required)
#   PRINCIPAL              whom, such as User:atlas-source (required)
#   KAFKA_ACLS             Kafka's own tool (/opt/kafka/bin/kafka-acls.sh, as in the image apache/kafka)
#   KAFKA_COMMAND_CONFIG   file with the client's security settings, for --command-config
#   TOPIC_PREFIX           atlas
#   DLQ_TOPIC              <prefix>.dlq
#   SOURCE_ID              default
#   DATA                   <prefix>.   of a source that reads one database: <prefix>.<database>.
#   SINK_GROUP             atlas-lake
set -euo pipefail

case "${1:-}" in source | sink | operator) file=$(dirname "$0")/acls-$1.conf ;; *) echo "usage: grant.sh source|sink|operator" >&2; exit 64 ;; esac
brokers=${KAFKA_BROKERS:?KAFKA_BROKERS is not set: give host:port}
principal=${PRINCIPAL:?PRINCIPAL is not set: give User:<name>}
tool=${KAFKA_ACLS:-/opt/kafka/bin/kafka-acls.sh}
prefix=${TOPIC_PREFIX:-atlas}
dlq=${DLQ_TOPIC:-$prefix.dlq}
source_id=${SOURCE_ID:-default}
data=${DATA:-$prefix.}
group=${SINK_GROUP:-atlas-lake}

connection=(--bootstrap-server "$brokers")
if [ -n "${KAFKA_COMMAND_CONFIG:-}" ]; then connection+=(--command-config "$KAFKA_COMMAND_CONFIG"); fi

while read -r resource pattern name operations; do
  case "$resource" in '' | '#'*) continue ;; esac
  for pair in "{prefix}=$prefix" "{dlq}=$dlq" "{source}=$source_id" "{data}=$data" "{group}=$group"; do
    name=${name//"${pair%%=*}"/"${pair#*=}"}
  done
  what=(--cluster)
  if [ "$resource" != cluster ]; then what=("--$resource" "$name" --resource-pattern-type "$pattern"); fi
  for operation in $operations; do what+=(--operation "$operation"); done
  # The tool must not read the file that this loop reads.
  "$tool" "${connection[@]}" --add --force --allow-principal "$principal" "${what[@]}" </dev/null
done <"$file"
