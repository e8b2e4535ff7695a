"""What is measured on a graphics card; README.md says how to run it."""
