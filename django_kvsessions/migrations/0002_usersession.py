"""What the admin's permissions belong to: no table."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("django_kvsessions", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="UserSession",
            fields=[],
            options={
                "verbose_name": "user session",
                "verbose_name_plural": "user sessions",
                "proxy": True,
                "default_permissions": ("view", "delete"),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_kvsessions.storedsession",),
        ),
    ]
