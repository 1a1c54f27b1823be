def none():
    return []
parameters=catalogs=labels=tables=none
