"""The dashboard: pages for people, at the same address as the service."""
