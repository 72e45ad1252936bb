"""Log entries as the audit events that a hospital's own tools read: FHIR, syslog, JSON lines."""
