"""The pages on which users see where they are logged in, and end it; and the admin's.

::

    path("account/sessions/", include("django_kvsessions.devices.urls"))

``pip install django-kvsessions[devices]`` brings ua-parser, which names browsers;
without it a user agent is shown as it came, shortened.
"""
