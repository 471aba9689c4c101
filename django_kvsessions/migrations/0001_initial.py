"""The table that a DatabaseStore has by default."""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState

from django_kvsessions.models import modelled_stores
from django_kvsessions.stores.database.schema import BytesField, columns_of, make


class CreateStoredSession(migrations.CreateModel):
    """Only where a store keeps it: sessions elsewhere, such as in files, need no table.

    Where a store comes later, the signal ``post_migrate`` makes it. One that is
    there already, made before there were migrations, is taken over as it is.
    """

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        # LOCATION has named the database, whatever the routers say.
        if any(modelled_stores(schema_editor.connection.alias)):
            make(schema_editor, to_state.apps.get_model(app_label, self.name))

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = from_state.apps.get_model(app_label, self.name)
        connection = schema_editor.connection
        quoted = connection.ops.quote_name(model._meta.db_table)
        if columns_of(connection, quoted) is not None:
            schema_editor.delete_model(model)

    def describe(self) -> str:
        return "Create the table django_kvsessions where a DatabaseStore keeps it"


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        CreateStoredSession(
            name="StoredSession",
            fields=[
                ("key", BytesField(max_length=32, primary_key=True, serialize=False)),
                ("data", models.BinaryField()),
                ("expires", models.FloatField()),
                ("revision", models.BigIntegerField()),
                ("owner", BytesField(max_length=16, null=True)),
            ],
            options={
                "db_table": "django_kvsessions",
                "default_permissions": (),
                "base_manager_name": "objects",
                "indexes": [
                    models.Index(
                        fields=["owner"],
                        condition=models.Q(owner__isnull=False),
                        name="django_kvsessi_owner_014e2f",
                    ),
                    models.Index(fields=["expires"], name="django_kvsessi_expires_014e2f"),
                ],
            },
        ),
    ]
