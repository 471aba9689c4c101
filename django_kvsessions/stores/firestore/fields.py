"""What FirestoreStore sets of its collection's fields."""

from __future__ import annotations

from google.auth.credentials import Credentials
from google.cloud import firestore_admin_v1 as admin_v1

from django_kvsessions.stores.firestore.patience import Limits

__all__ = ["prepare"]


def prepare(collection: str, credentials: Credentials | None, limits: Limits) -> None:
    """Let Firestore remove what has expired, and keep the data out of its indexes."""
    admin = admin_v1.FirestoreAdminClient(credentials=credentials)

    def update(field: admin_v1.Field, setting: str) -> None:
        mask = {"paths": [setting]}
        admin.update_field(request={"field": field, "update_mask": mask}, **limits)

    ttl = admin.get_field(name=f"{collection}/fields/expires", **limits)
    if "ttl_config" not in ttl:
        update(admin_v1.Field(name=ttl.name, ttl_config=admin_v1.Field.TtlConfig()), "ttl_config")
    data = admin.get_field(name=f"{collection}/fields/data", **limits)
    if data.index_config.indexes:
        update(
            admin_v1.Field(name=data.name, index_config=admin_v1.Field.IndexConfig()),
            "index_config",
        )
