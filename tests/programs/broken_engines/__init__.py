"""Session engines that break promises, to show that the demo notices."""
