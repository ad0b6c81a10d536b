#!/usr/bin/env bash
# Makes the topics of topics.conf that are not there; what is there is left as it is. Runs again without harm.
#
#   KAFKA_BROKERS   where (required)
#   KAFKA_TOPICS    Kafka's own tool (/opt/kafka/bin/kafka-topics.sh, as in the image apache/kafka)
#   TOPIC_PREFIX    atlas
#   SOURCE_ID       compose
#   REPLICATION     3
#   MIN_ISR         2
set -euo pipefail

brokers=${KAFKA_BROKERS:?KAFKA_BROKERS is not set: give host:port}
tool=${KAFKA_TOPICS:-/opt/kafka/bin/kafka-topics.sh}
prefix=${TOPIC_PREFIX:-atlas}
source_id=${SOURCE_ID:-compose}
replication=${REPLICATION:-3}
min_isr=${MIN_ISR:-2}

while read -r name partitions settings; do
  case "$name" in '' | '#'*) continue ;; esac
  name=${name//'{prefix}'/$prefix}
  name=${name//'{source}'/$source_id}
  configs=(--config "min.insync.replicas=$min_isr")
  for setting in $settings; do
    configs+=(--config "$setting")
  done
  # The tool must not read the list that this loop reads.
  "$tool" --bootstrap-server "$brokers" --create --if-not-exists --topic "$name" \
    --partitions "$partitions" --replication-factor "$replication" "${configs[@]}" </dev/null
done <"$(dirname "$0")/topics.conf"

echo "topics under $prefix. on $brokers:"
"$tool" --bootstrap-server "$brokers" --list </dev/null
