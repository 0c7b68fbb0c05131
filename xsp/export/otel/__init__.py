"""A profile as OpenTelemetry spans: chosen, built, and delivered with back-pressure."""
