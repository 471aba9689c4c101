"""The cart: a dict in the session, of product slugs and quantities."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from django.contrib.sessions.backends.base import SessionBase

from shop.products import PRODUCTS, Product


class Line(NamedTuple):
    product: Product
    quantity: int

    @property
    def price(self) -> Decimal:
        return self.product.price * self.quantity


class Cart:
    def __init__(self, session: SessionBase) -> None:
        self.session = session
        self.quantities: dict[str, int] = dict(session.get("cart", {}))

    def add(self, slug: str) -> None:
        self.quantities[slug] = self.quantities.get(slug, 0) + 1
        self.save()

    def remove(self, slug: str) -> None:
        """Take one out. Nothing happens where there is none."""
        if slug not in self.quantities:
            return
        self.quantities[slug] -= 1
        if not self.quantities[slug]:
            del self.quantities[slug]
        self.save()

    def save(self) -> None:
        # An assignment, because a change inside of a dict goes unnoticed.
        self.session["cart"] = self.quantities

    def __iter__(self) -> Iterator[Line]:
        # A product that was taken from the catalogue may still be in somebody's cart.
        for slug, quantity in self.quantities.items():
            if slug in PRODUCTS:
                yield Line(PRODUCTS[slug], quantity)

    @property
    def articles(self) -> int:
        return sum(line.quantity for line in self)

    @property
    def total(self) -> Decimal:
        return sum((line.price for line in self), Decimal("0.00"))
