"""The log on Apache Kafka, through confluent-kafka."""
