# Makes one program of a document: its ```cpp blocks one after the other, so that each can use what stands above it. A
# block after <!-- in a function: DECLARATIONS --> goes into a function, after those. Errors name the document's lines.
/^<!-- in a function: .* -->$/ {
  print "void line_" NR "() {"
  gsub(/^<!-- in a function: | -->$/, "")
  print
  wrapped = 1
}
/^```$/ {
  if (inside && wrapped) print "}"
  if (inside) wrapped = 0
  inside = 0
}
inside
/^```cpp$/ {
  print "#line " NR + 1 " \"" FILENAME "\""
  inside = ++blocks
}
END { if (!blocks || inside) exit 1 }
