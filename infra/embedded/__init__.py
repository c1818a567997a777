"""The embedded stack: a real Apache Kafka and a real MinIO here, without root or containers."""
