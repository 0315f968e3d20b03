"""The service, its Python client and its command line. Import what you need: ``from suffice.api.client import Client``."""
