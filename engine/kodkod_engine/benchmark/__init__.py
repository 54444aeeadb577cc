"""Measuring an engine on the machine it runs on: ceilings first, then what is reached of them."""
