"""Moving house without logging anybody out: from Django's engines, between stores, and back."""
