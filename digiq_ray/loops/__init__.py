"""The loops: offline pipeline and evaluation, each the whole story on one screen, serial or on Ray."""
