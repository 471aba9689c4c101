"""Users by what the admin is asked for: a name, an address, a primary key."""

from __future__ import annotations

from contextlib import suppress

from django.contrib.admin.utils import unquote
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import Http404

__all__ = ["matching_users", "user_by_quoted_pk"]

#: Users that one search finds at most.
MOST = 50


def matching_users(query: str) -> list[AbstractBaseUser]:
    """Whose name or mail address has it in it, or whose primary key it is."""
    if "\0" in query:
        return []  # PostgreSQL refuses to look for it.
    model = get_user_model()
    condition = Q(**{f"{model.USERNAME_FIELD}__icontains": query})
    if any(field.name == model.get_email_field_name() for field in model._meta.get_fields()):
        condition |= Q(**{f"{model.get_email_field_name()}__icontains": query})
    with suppress(ValidationError):
        condition |= Q(pk=model._meta.pk.to_python(query))
    users = model._default_manager.filter(condition).order_by(model.USERNAME_FIELD)
    return list(users[:MOST])


def user_by_quoted_pk(quoted: str) -> AbstractBaseUser:
    """The user whose primary key is in an address of the admin; ``Http404`` where there is none."""
    model = get_user_model()
    try:
        user: AbstractBaseUser = model._default_manager.get(
            pk=model._meta.pk.to_python(unquote(quoted))
        )
    except (model.DoesNotExist, ValidationError, OverflowError):
        raise Http404 from None
    return user
