"""What the shop sells."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple


class Product(NamedTuple):
    slug: str
    name: str
    price: Decimal
    about: str


PRODUCTS = {
    product.slug: product
    for product in (
        Product("mug", "Stoneware mug", Decimal("14.50"), "Holds a pint of tea, and its warmth."),
        Product("lamp", "Desk lamp", Decimal("59.00"), "Warm light that turns where you look."),
        Product("plant", "Pilea plant", Decimal("18.00"), "Round leaves, easy to keep alive."),
        Product("book", "Notebook", Decimal("9.90"), "192 dotted pages that lie flat."),
        Product("clock", "Wall clock", Decimal("34.00"), "Silent, and right without setting it."),
        Product("bag", "Canvas bag", Decimal("22.40"), "Carries a week of groceries."),
    )
}
