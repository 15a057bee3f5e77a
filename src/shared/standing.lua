-- What of a key counts and runs. KEYS: the three of the key.
local key = open(KEYS[1], KEYS[2], KEYS[3])
roll(key)
free_silent(key)
if key.is_known then
  save(key)
end
return standing(key)
