from __future__ import annotations

from django.apps.registry import Apps
from django.contrib.auth.hashers import make_password
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from shop.accounts import ADMIN, PASSWORD, SHOPPERS


def make_accounts(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    User = apps.get_model("auth", "User")
    password = make_password(PASSWORD)
    users = [User(username=name, password=password) for name in SHOPPERS]
    users.append(User(username=ADMIN, password=password, is_staff=True, is_superuser=True))
    User.objects.using(editor.connection.alias).bulk_create(users)


class Migration(migrations.Migration):
    initial = True
    dependencies = [("auth", "0012_alter_user_first_name_max_length")]
    operations = [migrations.RunPython(make_accounts, migrations.RunPython.noop)]
