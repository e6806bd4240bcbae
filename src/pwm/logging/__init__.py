"""Where metrics go while a run trains: files, services, the terminal."""
