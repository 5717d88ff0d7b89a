//! Takes pushes over HTTP and syslog and publishes them to Kafka.
