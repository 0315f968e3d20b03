"""The service, its Python client and its command line: ``from suffice.api.client import Client``, and so on."""
