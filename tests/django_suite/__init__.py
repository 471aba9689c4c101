"""Django's own tests, run on this engine: ``python -m tests.django_suite FOLDER``."""
