from __future__ import annotations

from django import forms


class NicknameForm(forms.Form):
    nickname = forms.CharField(max_length=40)


class ExpiryForm(forms.Form):
    """Seconds, where 0 is the end of the browser and nothing is the site's default."""

    CHOICES = [
        ("", "after two weeks, the default"),
        ("0", "when the browser is closed"),
        ("3600", "in an hour"),
        ("60", "in a minute"),
        ("1", "in a second"),
    ]
    seconds = forms.TypedChoiceField(
        choices=CHOICES, coerce=int, empty_value=None, required=False, label="Expires"
    )


class SlowForm(forms.Form):
    seconds = forms.FloatField(min_value=0, max_value=5)
