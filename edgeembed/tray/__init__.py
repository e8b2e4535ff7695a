"""The tray icon: shows the state of a daemon and has a menu for it. It talks to the daemon only over HTTP."""
