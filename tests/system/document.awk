# Makes one program of a document: its ```cpp blocks one after the other, so that each can use what stands above it. A
# block after <!-- in a function: DECLARATIONS --> goes into a function, after those; all that come after <!-- in main -->
# are main, in their order, which prints what the ```text blocks show: with -v output=1 these are given instead. Errors
# name the document's lines.
/^<!-- in a function: .* -->$/ {
  print "void line_" NR "() {"
  gsub(/^<!-- in a function: | -->$/, "")
  print
  wrapped = 1
}
/^<!-- in main -->$/ { in_main = 1 }
/^```$/ {
  if (inside && wrapped) print "}"
  if (inside) wrapped = in_main = 0
  inside = printed = 0
}
printed
inside && in_main { body = body $0 "\n" }
inside && !in_main && !output
/^```cpp$/ && !output {
  line = "#line " NR + 1 " \"" FILENAME "\""
  if (in_main) body = body line "\n"; else print line
  inside = ++blocks
}
/^```text$/ && output { printed = ++blocks }
END {
  if (!output && body) print "int main() {\n" body "}"
  if (!blocks || inside || printed) exit 1
}
