"""The command line. Every command is a function that imports what it needs when it runs, so that help is quick."""
