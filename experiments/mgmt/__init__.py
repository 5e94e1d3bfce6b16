"""What the MGMT experiments share."""
