"""The pages on which users see where they are logged in, and end it; and the admin's.

::

    path("account/sessions/", include("django_kvsessions.devices.urls"))
"""
