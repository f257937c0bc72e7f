"""Where arrays live: the device mesh, the table of logical axes, expert transports, compile reports."""
