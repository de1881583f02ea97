"""What can be checked about a device, and about the machine that devices run on."""
