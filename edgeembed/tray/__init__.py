"""The tray icon: what a daemon does, at a glance, and a menu for it. It talks to the daemon over HTTP alone."""
